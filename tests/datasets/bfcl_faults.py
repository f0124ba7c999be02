"""What is wrong in the data set itself, each with the reason; exact in both directions.

A ground-truth call that is not on this list must be valid, and one that is on it must fail in just this way;
a fault that is gone fails the test, too. Pinned for `bfcl.VERSION`, with every allowed value tried.
"""

from __future__ import annotations

from dataclasses import dataclass

VARIABLE = "The answer is the name of a variable of the asker's program, where a value of another type is declared."
OTHER_TYPE = "The answer has another type than the function document declares, such as true for one of its strings."
NOT_LISTED = "The answer is not among the values that the document lists: another spelling, a synonym, or its own."
LEFT_OUT = "The answer allows, or does, leave out what the document requires."
UNDECLARED = "The answer names an argument that the document does not have."
FORM = "The answer writes a date in another form than the document's `format`."
NULL = "The answer says null where the document declares a number that may be left out; read as left out."


@dataclass(frozen=True, slots=True)
class Fault:
    """One ground-truth call that does not fit its own function document.

    Attributes:
        question: The question's id.
        tool: The tool that is called.
        why: One of the reasons above.
        problems: What is reported for it, over all allowed values: code (or kind of repair) and JSON Pointer.
    """

    question: str
    tool: str
    why: str
    problems: tuple[str, ...]


FAULTS = (
    Fault(
        "simple_java_26",
        "ProxyConnection_prepareCall",
        VARIABLE,
        (
            "wrong_type /concurrency",
            "wrong_type /holdability",
            "wrong_type /resultSetType",
        ),
    ),
    Fault("simple_java_35", "RedissonConnection_bitOp", VARIABLE, ("wrong_type /destination",)),
    Fault("simple_java_38", "NestedValueFetcher_createSourceMapStub", VARIABLE, ("wrong_type /filteredSource",)),
    Fault("simple_java_45", "Basic_checkSizes", VARIABLE, ("wrong_type /environ",)),
    Fault("simple_java_58", "XContentBuilder_map", VARIABLE, ("wrong_type /values",)),
    Fault("simple_java_69", "DurationImpl_alignSigns", VARIABLE, ("wrong_type /buf",)),
    Fault("simple_java_72", "ToTextStream_characters", VARIABLE, ("wrong_type /ch",)),
    Fault("simple_java_82", "clear001a_runIt", VARIABLE, ("wrong_type /args",)),
    Fault("simple_java_87", "suspendpolicy017_settingVMDeathRequest", VARIABLE, ("wrong_type /suspendPolicy",)),
    Fault("simple_java_88", "filter_s002_setting22MethodEntryRequest", VARIABLE, ("wrong_type /suspendPolicy",)),
    Fault(
        "simple_javascript_5",
        "manageReactState",
        VARIABLE,
        (
            "wrong_type /store/initialState",
            "wrong_type /store/reducers",
        ),
    ),
    Fault("simple_javascript_9", "validateApiResponse", VARIABLE, ("wrong_type /jsonPayload",)),
    Fault("simple_javascript_11", "prioritizeAndSort", VARIABLE, ("wrong_type /items",)),
    Fault(
        "simple_javascript_15",
        "ChartSeriesGenerator",
        VARIABLE,
        (
            "wrong_type /chartLayout",
            "wrong_type /data",
            "wrong_type /labels",
        ),
    ),
    Fault(
        "simple_javascript_19",
        "configureShaderMaterial",
        VARIABLE,
        (
            "wrong_type /property",
            "wrong_type /textures",
        ),
    ),
    Fault("simple_javascript_32", "pollQueue", VARIABLE, ("wrong_type /queue",)),
    Fault("simple_javascript_37", "addInitializedPropertyStatements", VARIABLE, ("wrong_type /statements",)),
    Fault("simple_javascript_39", "maybeAddJsSyntheticRestParameter", VARIABLE, ("wrong_type /parameters",)),
    Fault(
        "parallel_multiple_21",
        "linear_regression_fit",
        VARIABLE,
        (
            "wrong_type /x",
            "wrong_type /y",
        ),
    ),
    Fault(
        "simple_python_149",
        "get_stock_price",
        OTHER_TYPE,
        (
            "wrong_type /company_names/0",
            "wrong_type /company_names/1",
        ),
    ),
    Fault("simple_python_307", "game_result_get_winner", OTHER_TYPE, ("wrong_type /venue",)),
    Fault(
        "parallel_multiple_94",
        "sort_list",
        OTHER_TYPE,
        (
            "wrong_type /elements/0",
            "wrong_type /elements/1",
            "wrong_type /elements/2",
            "wrong_type /elements/3",
            "wrong_type /elements/4",
        ),
    ),
    Fault("live_multiple_301-131-0", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /smoking_allowed",)),
    Fault("live_multiple_302-131-1", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /smoking_allowed",)),
    Fault("live_multiple_303-131-2", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /smoking_allowed",)),
    Fault("live_multiple_304-131-3", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /smoking_allowed",)),
    Fault(
        "live_multiple_306-131-5",
        "Hotels_4_SearchHotel",
        OTHER_TYPE,
        (
            "wrong_type /number_of_rooms",
            "wrong_type /smoking_allowed",
        ),
    ),
    Fault("live_multiple_307-131-6", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /smoking_allowed",)),
    Fault("live_multiple_308-131-7", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /smoking_allowed",)),
    Fault("live_multiple_552-153-1", "Services_1_FindProvider", OTHER_TYPE, ("wrong_type /is_unisex",)),
    Fault("live_multiple_553-153-2", "Services_1_FindProvider", OTHER_TYPE, ("wrong_type /is_unisex",)),
    Fault("live_multiple_595-158-1", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /number_of_rooms",)),
    Fault("live_multiple_596-158-2", "Hotels_4_SearchHotel", OTHER_TYPE, ("wrong_type /number_of_rooms",)),
    Fault("live_multiple_731-167-2", "Homes_2_FindHomeByArea", OTHER_TYPE, ("wrong_type /in_unit_laundry",)),
    Fault("live_multiple_732-167-3", "Homes_2_FindHomeByArea", OTHER_TYPE, ("wrong_type /in_unit_laundry",)),
    Fault("live_multiple_733-167-4", "Homes_2_FindHomeByArea", OTHER_TYPE, ("wrong_type /in_unit_laundry",)),
    Fault("live_multiple_734-167-5", "Homes_2_FindHomeByArea", OTHER_TYPE, ("wrong_type /in_unit_laundry",)),
    Fault("live_multiple_735-167-6", "Homes_2_FindHomeByArea", OTHER_TYPE, ("wrong_type /in_unit_laundry",)),
    Fault("live_multiple_736-167-7", "Homes_2_FindHomeByArea", OTHER_TYPE, ("wrong_type /in_unit_laundry",)),
    Fault("live_multiple_737-167-8", "Homes_2_FindHomeByArea", OTHER_TYPE, ("wrong_type /in_unit_laundry",)),
    Fault("simple_python_358", "recipe_search", NOT_LISTED, ("not_in_enum /diet/0",)),
    Fault("multiple_76", "sculpture_create_custom", NOT_LISTED, ("not_in_enum /material",)),
    Fault(
        "parallel_multiple_143",
        "find_flute",
        NOT_LISTED,
        (
            "not_in_enum /specs/0",
            "not_in_enum /specs/1",
        ),
    ),
    Fault("parallel_multiple_173", "ecology_data_precipitation_stats", NOT_LISTED, ("not_in_enum /time_frame",)),
    Fault("parallel_multiple_194", "building_get_dimensions", NOT_LISTED, ("not_in_enum /unit",)),
    Fault("live_multiple_87-38-4", "list_servers", NOT_LISTED, ("not_in_enum /type",)),
    Fault("live_multiple_750-169-5", "Media_3_FindMovies", NOT_LISTED, ("not_in_enum /genre",)),
    Fault("live_multiple_755-169-10", "Media_3_FindMovies", NOT_LISTED, ("not_in_enum /genre",)),
    Fault("live_multiple_756-169-11", "Media_3_FindMovies", NOT_LISTED, ("not_in_enum /genre",)),
    Fault("live_multiple_835-178-10", "Music_3_LookupMusic", NOT_LISTED, ("not_in_enum /genre",)),
    Fault("live_multiple_870-182-7", "Movies_1_FindMovies", NOT_LISTED, ("not_in_enum /genre",)),
    Fault("live_multiple_871-182-8", "Movies_1_FindMovies", NOT_LISTED, ("not_in_enum /genre",)),
    Fault("live_multiple_947-197-0", "set_countdown", NOT_LISTED, ("not_in_enum /duration",)),
    Fault("live_parallel_multiple_2-2-0", "ControlAppliance_execute", NOT_LISTED, ("not_in_enum /command",)),
    Fault("simple_python_17", "get_prime_factors", LEFT_OUT, ("missing_required /formatted",)),
    Fault("simple_python_200", "calculate_emissions", LEFT_OUT, ("missing_required /fuel_efficiency",)),
    Fault("parallel_88", "calculate_final_speed", LEFT_OUT, ("missing_required /initial_velocity",)),
    Fault("parallel_multiple_87", "kinematics_distance", LEFT_OUT, ("missing_required /initial_velocity",)),
    Fault("parallel_multiple_119", "league_stats_get_top_scorer", LEFT_OUT, ("missing_required /league_name",)),
    Fault("live_multiple_68-29-0", "add_postgres_server", LEFT_OUT, ("missing_required /port",)),
    Fault("live_multiple_69-30-0", "add_postgres_server", LEFT_OUT, ("missing_required /port",)),
    Fault("live_multiple_77-35-1", "add_postgres_server", LEFT_OUT, ("missing_required /port",)),
    Fault("live_multiple_114-44-1", "add_postgres_server", LEFT_OUT, ("missing_required /port",)),
    Fault("live_multiple_144-56-0", "get_sensor_readings_latest", LEFT_OUT, ("missing_required /perPage",)),
    Fault(
        "live_multiple_507-149-4",
        "Flights_4_SearchOnewayFlight",
        LEFT_OUT,
        ("missing_required /origin_airport",),
    ),
    Fault("live_multiple_834-178-9", "Music_3_PlayMedia", LEFT_OUT, ("missing_required /track",)),
    Fault(
        "live_multiple_905-186-2",
        "Trains_1_GetTrainTickets",
        LEFT_OUT,
        ("missing_required /number_of_adults",),
    ),
    Fault(
        "live_multiple_906-186-3",
        "Trains_1_GetTrainTickets",
        LEFT_OUT,
        ("missing_required /number_of_adults",),
    ),
    Fault(
        "parallel_multiple_12",
        "calculate_voltage_difference",
        UNDECLARED,
        ("unexpected_property /permeability",),
    ),
    Fault("parallel_multiple_26", "bank_calculate_balance", UNDECLARED, ("unexpected_property /type",)),
    Fault(
        "live_multiple_189-83-0",
        "sendHttpRequest",
        UNDECLARED,
        (
            "unexpected_property /data/email",
            "unexpected_property /data/name",
        ),
    ),
    Fault(
        "live_multiple_862-181-3",
        "Trains_1_FindTrains",
        UNDECLARED,
        ("unexpected_property /journey_start_time",),
    ),
    Fault(
        "live_multiple_964-207-0",
        "transfer_to_human_agent",
        UNDECLARED,
        (
            "missing_required /statement",
            "unexpected_property /question",
        ),
    ),
    Fault("parallel_multiple_63", "weather_get_by_coordinates_date", FORM, ("invalid_format /date",)),
    Fault("parallel_multiple_63", "weather_get_by_city_date", FORM, ("invalid_format /date",)),
    Fault("parallel_152", "math_power", NULL, ("null_means_omitted /mod",)),
)
